"""What surveys add between the pipeline's steps: functions of arrays, each in a thin stpipe Step."""
