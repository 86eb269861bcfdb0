"""`diffembed pretrain`: a language model from raw text."""

from diffembed.cli import recipe

command = recipe.verb("pretrain", "Pre-train a language model on raw text.")
