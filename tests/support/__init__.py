"""What tests stand on: databases, a fake psql, a proxy, and the proof that nothing is left."""
