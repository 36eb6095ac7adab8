"""One spec and one annotator a condition; captions; latents. Knows `schemas`, nothing of Beam."""
