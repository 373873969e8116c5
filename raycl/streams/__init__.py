"""Task streams: data sets, how they become sequences of tasks, and how classes become output units."""
