"""What deploy/ has, held to real programs: schemas, nginx and Caddy, the images' steps carried out without Docker."""
