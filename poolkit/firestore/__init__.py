"""FirestorePool and what it is made of."""
