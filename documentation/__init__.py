"""What makes the documentation: pages and figures from the code, and the site from the pages."""
