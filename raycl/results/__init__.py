"""What a sweep leaves behind: the store, its data set, tables, plots, and the MLflow mirror."""
