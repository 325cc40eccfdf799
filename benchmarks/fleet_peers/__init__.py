"""What a round that does nothing costs in deployments of others, measured beside ours."""
