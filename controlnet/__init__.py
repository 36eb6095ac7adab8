"""The learner: a zero-convolution ControlNet on a locked diffusion model, trained from shards."""
