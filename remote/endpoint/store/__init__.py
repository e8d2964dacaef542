"""What lasts: jobs, blobs, events and measurements, on disk and in memory."""
