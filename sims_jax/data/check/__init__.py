"""Checks a dataset before anything is trained on it: every file is read, every fault is named."""
