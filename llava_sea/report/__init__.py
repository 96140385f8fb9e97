"""Pictures and the HTML report that show what each patch says."""
