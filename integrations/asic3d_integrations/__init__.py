"""asic3d and other tools: reports, data set readers. Each module imports its library late."""
