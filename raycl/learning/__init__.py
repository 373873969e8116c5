"""Mathematics that methods share, as plain functions and objects without a trainer."""
