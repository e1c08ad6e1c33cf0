"""The memory bank: segments of real photos on disk and on the devices, and their retrieval."""
