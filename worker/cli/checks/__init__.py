"""What ``cyxwiz doctor`` looks at. Each module answers with `Check`s and changes nothing."""
