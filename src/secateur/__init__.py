"""secateur makes transformer language models smaller and faster, and wins back the quality that costs."""
