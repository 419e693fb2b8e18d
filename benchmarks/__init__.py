"""What is measured of speed and memory; every file is a script, `device` a package."""
