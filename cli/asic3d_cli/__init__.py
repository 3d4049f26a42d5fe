"""The command line of asic3d: parses, calls the library, reports."""
