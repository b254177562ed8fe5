"""The suite tried on models that are known to be broken, and on models known to be sound."""
