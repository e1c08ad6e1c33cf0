"""Datasets: photos with layouts, and the builders that read or draw them."""
