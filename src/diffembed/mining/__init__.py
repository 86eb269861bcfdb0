"""Hard negatives: texts that a search takes for answers to a query, and that are none."""
