"""Files of many kinds as documents: text, title, and where sections begin."""
