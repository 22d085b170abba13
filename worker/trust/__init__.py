"""Who may have what run here: keys, their scopes, and the standing of a job."""
