"""The quorum, in parts and as a machine."""
