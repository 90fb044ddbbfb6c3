"""What producers, consumers and admin clients are made of. Pure but for connection, cluster_client, io and fetching."""
