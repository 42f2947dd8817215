"""MLPerf LoadGen as an independent referee of a stream."""
