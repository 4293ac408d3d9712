"""Results from a message queue: RabbitMQ, and what kombu makes one of."""
