"""Figures: medians and spreads, ratios, targets, and the pages and JSON that show them."""
