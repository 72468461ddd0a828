"""What a user would have got elsewhere: the project's model under other ways of parallelism."""
