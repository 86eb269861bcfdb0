"""Strings -> vectors, with an account of what was done."""

from diffembed.embedder.core import Embedder
from diffembed.embedder.layout import Overflow
from diffembed.embedder.report import Encoded, Report

__all__ = ["Embedder", "Encoded", "Overflow", "Report"]
