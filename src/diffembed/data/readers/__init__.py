"""Training data in the layouts that it is published in, read row by row. See docs/data.md."""

from diffembed.data.readers.read import describe_data, read_examples

__all__ = ["describe_data", "read_examples"]
