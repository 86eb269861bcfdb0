"""Measure retrieval: tasks, measures, statistics. Any object with encode_query and encode_document can be measured."""
