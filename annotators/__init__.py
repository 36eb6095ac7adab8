"""Eyes: one spec and one annotator per condition. Knows `schemas` and nothing of Beam."""
