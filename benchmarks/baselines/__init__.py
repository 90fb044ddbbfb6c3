"""What rayqueue is held against in the same run: a bare Flight stream into a file, and what the machine can do."""
