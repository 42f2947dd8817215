"""MLPerf LoadGen as the judge of a stream."""
