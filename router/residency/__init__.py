"""Who is in memory. A pure core decides, one manager acts. Read `core.py` first."""
