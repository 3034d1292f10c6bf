"""Speed: every part of an iteration against its floor, and beside other ways to write it. See docs/performance.md."""
