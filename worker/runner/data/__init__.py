"""The data of a job, as arrays: from what a package ships, or from what the node mounted."""
