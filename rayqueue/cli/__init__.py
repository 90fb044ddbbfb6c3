"""The `rayqueue` command. Modules here import Ray, pyarrow and rich only where a command needs them."""
