"""The training service: runs other people's scripts in locked containers, and registers what they make."""
