"""Trial lists, read or drawn."""
