"""Step caches: which model calls a sampling run can do without, and what stands in for them."""
