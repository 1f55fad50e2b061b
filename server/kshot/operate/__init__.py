"""Commands that join client, server and bundles; each is imported only when it runs."""
