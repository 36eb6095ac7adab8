"""Another condition, or captions, for a data set that is complete: `controlset add`."""
