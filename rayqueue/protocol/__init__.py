"""What goes over Flight: messages, their codec, the schemas of topics, and the header of a batch in the log."""
