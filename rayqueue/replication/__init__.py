"""The replica's machine, pure: what a partition's leader does with batches, acks and the high watermark."""
