"""`diffembed finetune`: an embedder from a language model and pairs of texts."""

from diffembed.cli import recipe

command = recipe.verb("finetune", "Fine-tune a language model into an embedder by contrastive learning.")
