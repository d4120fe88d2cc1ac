"""RocketMQ's protocol without IO."""
