"""Golden scenarios: protocol stories in prose-like commands, with what they print."""
