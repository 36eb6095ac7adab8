"""More conditions, captions or latents for a data set that is complete: `controlset add`."""
