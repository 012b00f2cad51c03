"""What people see of Ratchet in Airflow: plain pages, drawn on the server, on the API's own functions."""
