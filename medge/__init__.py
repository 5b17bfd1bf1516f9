"""medge: a folder of medical images becomes a small, fast engine that has proved it is not worse than its model.

Research use; not a medical device.
"""

__version__ = "0.1.0"
